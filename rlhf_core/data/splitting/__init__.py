"""Which prompts are held out together, and which training rows come too near to them."""
