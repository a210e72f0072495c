/* What exists in 32-bit code only; numbered after snippets_legacy.h. */
SNIPPET(task_switch)
SNIPPET(step_task_switch)
SNIPPET(endless_ac)
PLACE(task_entry)
