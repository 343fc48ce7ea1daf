"""The daemon's HTTP server: who may come in, what can be asked, what is shown."""
