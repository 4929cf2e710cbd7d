"""Running nipype graphs so that nothing hangs, nothing is lost and every failure is explained."""
