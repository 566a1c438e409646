"""`pyeal warm` killed and failed at each system call, and timed beside cold starts: ci/warm."""
