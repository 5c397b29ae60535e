"""The policy: its files, read strictly; Casbin as the judge; what can be asked of both."""
