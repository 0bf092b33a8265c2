/* message.S: objc_msgSend and its relatives: every register that can carry an argument is kept
 * around the search for the method, which is then jumped to. A message to nil answers zero. */

#if defined(__x86_64__)

    .macro ENTER
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    subq $192, %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    movq %rax, 128(%rsp)
    movq %rdi, 136(%rsp)
    movq %rsi, 144(%rsp)
    movq %rdx, 152(%rsp)
    movq %rcx, 160(%rsp)
    movq %r8, 168(%rsp)
    movq %r9, 176(%rsp)
    .endm

    .macro LEAVE
    movq %rax, %r11
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    movq 128(%rsp), %rax
    movq 136(%rsp), %rdi
    movq 144(%rsp), %rsi
    movq 152(%rsp), %rdx
    movq 160(%rsp), %rcx
    movq 168(%rsp), %r8
    movq 176(%rsp), %r9
    leave
    .cfi_def_cfa %rsp, 8
    .endm

    .macro FUNCTION name
    .globl \name
    .type \name, @function
\name:
    .cfi_startproc
    .endm

    .macro END name
    .cfi_endproc
    .size \name, . - \name
    .endm

    .text
    FUNCTION objc_msgSend
    testq %rdi, %rdi
    je 1f
    ENTER
    call rt_find@PLT
    LEAVE
    jmp *%r11
1:  xorl %eax, %eax
    xorl %edx, %edx
    pxor %xmm0, %xmm0
    pxor %xmm1, %xmm1
    ret
    END objc_msgSend

/* The address of the struct to be returned comes first. */
    FUNCTION objc_msgSend_stret
    testq %rsi, %rsi
    je 1f
    ENTER
    movq %rsi, %rdi
    movq %rdx, %rsi
    call rt_find@PLT
    LEAVE
    jmp *%r11
1:  movq %rdi, %rax
    ret
    END objc_msgSend_stret

    FUNCTION objc_msgSendSuper2
    ENTER
    call rt_find_super@PLT
    LEAVE
    movq (%rdi), %rdi
    jmp *%r11
    END objc_msgSendSuper2

#elif defined(__aarch64__)

    .macro ENTER
    .cfi_startproc
    stp x29, x30, [sp, #-224]!
    .cfi_def_cfa_offset 224
    .cfi_offset x29, -224
    .cfi_offset x30, -216
    mov x29, sp
    stp x0, x1, [sp, #16]
    stp x2, x3, [sp, #32]
    stp x4, x5, [sp, #48]
    stp x6, x7, [sp, #64]
    str x8, [sp, #80]
    stp q0, q1, [sp, #96]
    stp q2, q3, [sp, #128]
    stp q4, q5, [sp, #160]
    stp q6, q7, [sp, #192]
    .endm

    .macro LEAVE
    mov x17, x0
    ldp x0, x1, [sp, #16]
    ldp x2, x3, [sp, #32]
    ldp x4, x5, [sp, #48]
    ldp x6, x7, [sp, #64]
    ldr x8, [sp, #80]
    ldp q0, q1, [sp, #96]
    ldp q2, q3, [sp, #128]
    ldp q4, q5, [sp, #160]
    ldp q6, q7, [sp, #192]
    ldp x29, x30, [sp], #224
    .cfi_def_cfa_offset 0
    .endm

    .text
    .p2align 2
    .globl objc_msgSend
    .type objc_msgSend, %function
objc_msgSend:
    cbz x0, 1f
    ENTER
    bl rt_find
    LEAVE
    br x17
    .cfi_endproc
1:  mov x1, #0
    movi v0.2d, #0
    movi v1.2d, #0
    movi v2.2d, #0
    movi v3.2d, #0
    ret

    .globl objc_msgSendSuper2
    .type objc_msgSendSuper2, %function
objc_msgSendSuper2:
    ENTER
    bl rt_find_super
    LEAVE
    ldr x0, [x0]
    br x17
    .cfi_endproc

#endif
    .section .note.GNU-stack, "", %progbits
