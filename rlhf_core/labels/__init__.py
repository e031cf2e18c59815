"""Labels from people: which pairs to ask about, who is asked, and what the votes say."""
