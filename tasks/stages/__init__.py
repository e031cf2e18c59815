"""The stages: from a recipe and earlier outputs to a spec, from a result to outputs. One file a
stage.
"""
