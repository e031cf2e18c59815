"""Groups of prompts that are held out together, and training rows that come too near to them."""
