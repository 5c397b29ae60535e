# Have a token signed that says who the caller is, for an API of TENANT.
path "identity/oidc/token/TENANT-api" {
  capabilities = ["read"]
}
