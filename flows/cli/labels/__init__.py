"""Commands of labelling: pairs to people, votes back."""
