"""Other programs' ways to run jobs: joblib, submitit (SLURM), Ray."""
