"""The brokers behind the gateway, one module each."""
