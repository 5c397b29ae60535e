# Read the one key that TENANT has for an API; no other, and not their list.
path "secret/data/TENANT/api" {
  capabilities = ["read"]
}
