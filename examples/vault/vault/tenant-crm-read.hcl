# Make a user of the CRM's database who reads what belongs to TENANT.
path "database/creds/TENANT-crm-read" {
  capabilities = ["read"]
}
