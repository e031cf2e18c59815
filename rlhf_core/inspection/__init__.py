"""The models and rows of a recipe as its stages read them, for people: nothing is trained."""
