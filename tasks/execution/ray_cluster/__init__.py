"""The ranks of a stage on a Ray cluster: `python -m tasks.execution.ray_cluster`.

Ray places and watches the ranks. A rank is the process that DeepSpeed's launcher would start.
"""
