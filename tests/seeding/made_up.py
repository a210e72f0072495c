"""Made-up vmm sources in the layouts of the releases: only the shapes that the edits look for, nothing of FreeBSD's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs between releases: the loop's name and arguments, how a vCPU is named, where hw.vmm is defined."""

    version: int
    run: str
    arguments: str
    dirty: str
    setdesc: str
    pcpu: str
    node: str


LAYOUTS = {
    # Arguments that go over two lines; the vCPU is a number.
    "12.1": Layout(
        1201000, "svm_vmrun", "void *arg, int vcpu, register_t rip,\n    pmap_t pmap", "sc, vcpu",
        "void *arg, int vcpu, int reg", "&__pcpu[curcpu]", "sys/amd64/vmm/vmm.c",
    ),
    # One structure for each vCPU.
    "13.2": Layout(
        1302001, "svm_run", "void *vcpui, register_t rip, pmap_t pmap", "vcpu", "struct svm_vcpu *vcpu, int reg",
        "get_pcpu()", "sys/amd64/vmm/vmm.c",
    ),
    # The same, and hw.vmm is defined in the part that architectures share.
    "15": Layout(
        1500000, "svm_run", "void *vcpui, register_t rip, pmap_t pmap", "vcpu", "struct svm_vcpu *vcpu, int reg",
        "get_pcpu()", "sys/dev/vmm/vmm_vm.c",
    ),
}  # fmt: skip


def _each(form: str) -> str:
    return "".join(f"\t{form.replace('#', str(n))}\n" for n in range(4))


def _function(result: str, name: str, arguments: str, body: str) -> str:
    return f"{result}\n{name}({arguments})\n{{\n{body}}}\n\n"


def _svm(layout: Layout) -> str:
    text = "SYSCTL_DECL(_hw_vmm);\nSYSCTL_NODE(_hw_vmm, OID_AUTO, svm, CTLFLAG_RW, NULL, NULL);\n\n"
    body = "\tload_dr7(0);\n" + _each("gctx->host_dr# = rdr#();") + _each("load_dr#(gctx->sctx_dr#);")
    text += _function("static void", "svm_dr_enter_guest", "struct svm_regctx *gctx", body)
    body = _each("gctx->sctx_dr# = rdr#();") + _each("load_dr#(gctx->host_dr#);")
    body += "\tload_dr6(gctx->host_dr6);\n\tload_dr7(gctx->host_dr7);\n"
    text += _function("static void", "svm_dr_leave_guest", "struct svm_regctx *gctx", body)
    body = f"\tif (moved) {{\n\t\tsvm_set_dirty({layout.dirty}, 0xffffffff);\n\t}}\n"
    body += "\tctrl->vmcb_clean = vmcb_clean & ~v->dirty;\n\tsvm_dr_enter_guest(gctx);\n"
    body += f"\tsvm_launch(pa, gctx, {layout.pcpu});\n\tsvm_dr_leave_guest(gctx);\n"
    text += _function("static int", layout.run, layout.arguments, body)
    body = "\tswitch (reg) {\n" + _each("case #: return (&regctx->sctx_dr#);") + "\t}\n"
    return text + _function("static register_t *", "swctx_regptr", "struct svm_regctx *regctx, int reg", body)


def _support() -> str:
    lines = ["VENTER", "push %r12", "vmrun %rax", "pop %r12", "wrmsr", "VLEAVE", "ret"]
    return "ENTRY(svm_launch)\n" + "".join(f"\t{line}\n" for line in lines) + "END(svm_launch)\n"


def _vmcb(layout: Layout) -> str:
    dirty = {
        group: f"\tsvm_set_dirty({layout.dirty}, VMCB_CACHE_{group});\n" for group in ("CR", "CR2", "DR", "SEG", "DT")
    }
    first = layout.setdesc.rpartition(",")[0]
    body = dirty["CR"] * 4 + dirty["CR2"] + dirty["DR"] * 2 + dirty["SEG"]
    text = _function("int", "vmcb_write", f"{first}, int ident, uint64_t val", body)
    return text + _function("int", "vmcb_setdesc", layout.setdesc, dirty["SEG"] + dirty["DT"])


def _vmx() -> str:
    text = "#define\tVM_EXIT_CTLS_ONE_SETTING\t\\\n\t(VM_EXIT_SAVE_DEBUG_CONTROLS\t|\t\\\n\tVM_EXIT_HOST_LMA)\n\n"
    text += "#define\tVM_EXIT_CTLS_ZERO_SETTING\t0\n\n"
    text += "#define\tVM_ENTRY_CTLS_ONE_SETTING\t\\\n\t(VM_ENTRY_LOAD_DEBUG_CONTROLS\t|\t\\\n\tVM_ENTRY_LOAD_EFER)\n\n"
    text += "#define\tVM_ENTRY_CTLS_ZERO_SETTING\t\\\n\t(VM_ENTRY_INTO_SMM\t|\t\\\n\tOTHER)\n\n"
    text += "SYSCTL_DECL(_hw_vmm);\n\n"
    body = "\twrite_rflags(rflags & ~PSL_T);\n" + _each("vmxctx->host_dr# = rdr#();")
    body += _each("load_dr#(vmxctx->guest_dr#);") + "\tload_dr6(vmxctx->guest_dr6);\n"
    text += _function("static void", "vmx_dr_enter_guest", "struct vmxctx *vmxctx", body)
    body = _each("vmxctx->guest_dr# = rdr#();") + "\tvmxctx->guest_dr6 = rdr6();\n"
    body += _each("load_dr#(vmxctx->host_dr#);") + "\tload_dr6(vmxctx->host_dr6);\n\tload_dr7(vmxctx->host_dr7);\n"
    body += "\twrite_rflags(read_rflags() | vmxctx->host_tf);\n"
    text += _function("static void", "vmx_dr_leave_guest", "struct vmxctx *vmxctx", body)
    body = "\tswitch (reg) {\n" + _each("case #: return (&vmxctx->guest_dr#);") + "\t}\n"
    return text + _function("static register_t *", "vmxctx_regptr", "struct vmxctx *vmxctx, int reg", body)


def tree(folder: Path, name: str) -> Path:
    """A source tree of the layout ``name`` below ``folder``."""
    layout = LAYOUTS[name]
    files = {
        "sys/amd64/vmm/vmm.c": "int vmm_unrelated;\n",
        "sys/amd64/vmm/amd/svm.c": _svm(layout),
        "sys/amd64/vmm/amd/svm_support.S": _support(),
        "sys/amd64/vmm/amd/vmcb.c": _vmcb(layout),
        "sys/amd64/vmm/intel/vmx.c": _vmx(),
        "sys/sys/param.h": f"#define __FreeBSD_version {layout.version}\t/* made up */\n",
    }
    node = "SYSCTL_NODE(_hw, OID_AUTO, vmm, CTLFLAG_RW, NULL,\n    NULL);\n"
    files[layout.node] = files.get(layout.node, "") + node
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder
