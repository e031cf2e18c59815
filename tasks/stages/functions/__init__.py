"""The functions that a recipe names, before a stage process imports them."""
