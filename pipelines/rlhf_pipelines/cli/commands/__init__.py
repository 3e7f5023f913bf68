"""One module a command of `rlhf`: its flags (`add`) and what it does. `rlhf.COMMANDS` lists them."""
