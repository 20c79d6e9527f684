"""The gateway: one asyncio process that takes HTTP requests and schedules them onto workers."""
