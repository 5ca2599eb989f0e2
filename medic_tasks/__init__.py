"""What acts: the Celery application, the beat schedule, sweeps, step tasks, housekeeping."""
