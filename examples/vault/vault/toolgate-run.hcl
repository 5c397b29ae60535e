# What a run's token may do beside what its tenant's policies open: make the token of one call.

# A child has no policy that its parent lacks; the vault sees to that. It is a batch token: it cannot be
# renewed or made to last, it makes no tokens itself, and it ends with the run.
path "auth/token/create" {
  capabilities        = ["update"]
  required_parameters = ["type", "policies", "ttl", "no_default_policy"]
  allowed_parameters = {
    "type"              = ["batch"]
    "no_default_policy" = [true]
    "policies"          = []
    "ttl"               = []
    "display_name"      = []
    "meta"              = []
  }
}

# End itself, where the gate had stopped waiting before the token came.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
