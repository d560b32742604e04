"""labctl: one module a verb, each loaded only when it is called (see `lazy`)."""
