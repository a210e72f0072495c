/*
 * What goes through the world switch of VT-x, vmx_enter_guest(struct vmxctx *, struct vmx *, launched): README.md says
 * what each line of the output means.
 */
#pragma D option quiet
#pragma D option switchrate=50hz

BEGIN
{
	@entries = sum(0);
	@returns = sum(0);
	/* D takes the type of a thread's variable from what is assigned first, in the order of this file. */
	self->inside = 0;
	self->last = 0;
	printf("armed\n");
}

fbt:vmm:vmx_enter_guest:entry
{
	@entries = sum(1);
	@threads[tid, cpu, execname, stringof(curthread->td_name)] = sum(1);
	@wrong["entered again without a return"] = sum(self->inside);
	@wrong["given no context"] = sum(arg0 == 0 || arg1 == 0);
	@wrong["given a launch state that is neither 0 nor 1"] = sum((arg2 & 0xfffffffe) != 0);
	@contexts[arg0 + offsetof(struct vmxctx, host_dr0)] = sum(1);
	@saved[((struct vmxctx *)arg0)->host_dr0, ((struct vmxctx *)arg0)->host_dr1,
	    ((struct vmxctx *)arg0)->host_dr2, ((struct vmxctx *)arg0)->host_dr3,
	    ((struct vmxctx *)arg0)->host_dr6, ((struct vmxctx *)arg0)->host_dr7,
	    ((struct vmxctx *)arg0)->host_debugctl] = sum(1);
	@stacks[probename, stack(6)] = sum(1);
	self->inside = 1;
	self->last = cpu + 1;
}

fbt:vmm:vmx_enter_guest:return
{
	@returns = sum(1);
	@wrong["returned without an entry"] = sum(self->inside == 0);
	@wrong["returned on another cpu"] = sum(self->inside != 0 && self->last != cpu + 1);
	@wrong["returned an error"] = sum((arg1 & 0xffffffff) != 0);
	@sites[arg0] = sum(1);
	@stacks[probename, stack(6)] = sum(1);
	self->inside = 0;
}

END
{
	printa("entries %@d\n", @entries);
	printa("returns %@d\n", @returns);
	printa("thread %d %d %@d %s %s\n", @threads);
	printa("wrong %@d %s\n", @wrong);
	printa("context %x %@d\n", @contexts);
	printa("saved %x %x %x %x %x %x %x %@d\n", @saved);
	printa("site %x %@d\n", @sites);
	printa("stack %s %@d%-8k", @stacks);
	printf("complete\n");
}
