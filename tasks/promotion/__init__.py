"""Promotion: the transaction that moves an alias, its ledger, eligibility, recovery."""
