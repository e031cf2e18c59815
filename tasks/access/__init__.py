"""Access: the accounts and roles on MLflow's server that part training, promotion and approval."""
