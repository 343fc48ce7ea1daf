"""A stand-in for Marketo's bulk import, as documented: a pure model, and the same behind HTTP.

Independent of the loader, so that both can be wrong only separately. Sources: Adobe's pages on bulk lead, custom object
and program member imports, authentication and error codes; its swagger files; and what practitioners report where Adobe
is silent. What nobody says is a setting (`settings.Settings`), so that a client can be shown to survive every answer.
"""
