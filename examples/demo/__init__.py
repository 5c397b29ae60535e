"""What `make demo` runs beside the gate."""
