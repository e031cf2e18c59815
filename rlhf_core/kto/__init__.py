"""KTO: alignment on single replies with thumbs up or down."""
