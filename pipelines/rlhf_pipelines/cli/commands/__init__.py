"""One module a command of `rlhf`: its flags (`add`) and what it does. `cli.COMMANDS` lists them."""
