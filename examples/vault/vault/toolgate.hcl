# The gate's own token: it opens runs and ends what was made. It can read no secret.

# A token for a run, under the token role of its tenant. That role, and not the gate, says how much the run
# may do: name no other token role toolgate-*.
path "auth/token/create/toolgate-*" {
  capabilities = ["update"]
}

# End a run, with every credential that was made under it. An accessor can end its token and nothing else.
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

# Give one credential back, by its lease id, before its time is over.
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# Stay signed in, see whether it still is, and sign out when the gate stops: with it goes every run.
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
