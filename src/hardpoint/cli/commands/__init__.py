"""The words of each command. What a command does is in the module it loads when it is called."""
