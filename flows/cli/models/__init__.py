"""Commands about registered models: approval, promotion, history and lineage."""
