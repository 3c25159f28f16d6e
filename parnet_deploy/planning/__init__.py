"""Pure plans, from frozen data to frozen data: partition, placement, schedule. Nothing here touches a device."""
