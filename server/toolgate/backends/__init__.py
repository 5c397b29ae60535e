"""One outside thing each: a library is imported by one module, which translates its errors."""
