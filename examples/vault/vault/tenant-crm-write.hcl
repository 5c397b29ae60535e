# Make a user of the CRM's database who reads and changes what belongs to TENANT.
path "database/creds/TENANT-crm-write" {
  capabilities = ["read"]
}
