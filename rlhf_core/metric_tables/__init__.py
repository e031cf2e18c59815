"""Every metric: name, unit and meaning, by stage."""
