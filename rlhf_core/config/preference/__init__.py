"""The sections about labels of single replies: those of KTO, and those of the reward model."""
