"""The stages: from recipe and earlier outputs to a spec, one file per stage."""
