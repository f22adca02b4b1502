"""What can be done where a concept fires: one interface, one file for each action."""
