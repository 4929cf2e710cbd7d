"""Running networks: devices, sliding windows, uncertainty."""
