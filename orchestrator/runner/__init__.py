"""Who drives a load? `loop` looks and starts, `offering` and `following` carry out, `books` writes down."""
