"""Credentials that a vault makes for one call: HashiCorp Vault and OpenBao."""
