/*
 * What goes through the world switch of SVM, svm_launch(vmcb_pa, struct svm_regctx *, struct pcpu *): README.md says
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

fbt:vmm:svm_launch:entry
{
	@entries = sum(1);
	@threads[tid, cpu, execname, stringof(curthread->td_name)] = sum(1);
	@wrong["entered again without a return"] = sum(self->inside);
	@wrong["given the pcpu of another cpu"] = sum(((struct pcpu *)arg2)->pc_cpuid != cpu);
	@wrong["given a vmcb that is not on a page"] = sum((arg0 & 0xfff) != 0 || arg0 == 0);
	@contexts[arg1 + offsetof(struct svm_regctx, host_dr0)] = sum(1);
	@saved[((struct svm_regctx *)arg1)->host_dr0, ((struct svm_regctx *)arg1)->host_dr1,
	    ((struct svm_regctx *)arg1)->host_dr2, ((struct svm_regctx *)arg1)->host_dr3,
	    ((struct svm_regctx *)arg1)->host_dr6, ((struct svm_regctx *)arg1)->host_dr7,
	    ((struct svm_regctx *)arg1)->host_debugctl] = sum(1);
	@stacks[probename, stack(6)] = sum(1);
	self->clean = ((struct svm_vcpu *)(arg1 - offsetof(struct svm_vcpu, swctx)))->vmcb->ctrl.vmcb_clean;
	@clean[self->clean] = sum(1);
	self->inside = 1;
}

fbt:vmm:svm_launch:entry
/self->last == 0/
{
	@first[self->clean] = sum(1);
	@debugctl[((struct svm_vcpu *)(arg1 - offsetof(struct svm_vcpu, swctx)))->vmcb->state.dbgctl] = sum(1);
}

fbt:vmm:svm_launch:entry
/self->last != 0 && self->last != cpu + 1/
{
	@moved[self->clean] = sum(1);
}

fbt:vmm:svm_launch:entry
{
	self->last = cpu + 1;
}

fbt:vmm:svm_launch:return
{
	@returns = sum(1);
	@wrong["returned without an entry"] = sum(self->inside == 0);
	@wrong["returned on another cpu"] = sum(self->inside != 0 && self->last != cpu + 1);
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
	printa("clean %x %@d\n", @clean);
	printa("first %x %@d\n", @first);
	printa("debugctl %x %@d\n", @debugctl);
	printa("moved %x %@d\n", @moved);
	printa("stack %s %@d%-8k", @stacks);
	printf("complete\n");
}
