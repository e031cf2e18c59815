"""Commands that make runs and show what runs found."""
