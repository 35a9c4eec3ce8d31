"""What the daemon costs, beside nvitop-exporter and beside the least that reading alone costs."""
