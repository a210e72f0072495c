/*
 * Whom the interrupts of the profile provider meet, on every CPU: README.md says what each line of the output means.
 */
#pragma D option quiet

BEGIN
{
	printf("armed\n");
}

profile-997
{
	@threads[tid, cpu, execname, stringof(curthread->td_name)] = sum(1);
}

END
{
	printa("thread %d %d %@d %s %s\n", @threads);
	printf("complete\n");
}
