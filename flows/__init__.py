"""What schedules and watches the graph of dvc.yaml; nothing here restates it."""
