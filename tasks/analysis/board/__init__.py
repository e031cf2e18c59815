"""Many pipeline runs at once: their parameters and final metrics, filtered, ranked, summed up."""
