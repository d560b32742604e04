"""The registry's token service: a container beside the registry, so that this waits for nothing else."""
