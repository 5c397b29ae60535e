CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE TENANT_RIGHTS;
ALTER ROLE "{{name}}" SET search_path = TENANT;
