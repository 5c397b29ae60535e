"""What governance is: records, rules of the path, no input or output."""
