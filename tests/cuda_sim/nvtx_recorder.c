/* A tool of NVTX 3, as Nsight Systems is one: it appends a line to the file that NVTX_RECORDS names for every range that
 * a thread pushes or pops, "THREAD push DOMAIN MESSAGE" or "THREAD pop DOMAIN", with tabs between.
 */
#include <nvtx3/nvToolsExt.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int records = -1;

/* One call writes the whole line, so that lines of several threads do not mix. */
static void record(const char *text, int length) {
    if (write(records, text, (size_t)length) != length) abort();
}

/* What a tool answers for domains and strings is its own affair: here, a copy of their text. */
static nvtxDomainHandle_t create_domain(const char *name) { return (nvtxDomainHandle_t)strdup(name); }

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *text) {
    (void)domain;
    return (nvtxStringHandle_t)strdup(text);
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *attributes) {
    const char *message = attributes->messageType == NVTX_MESSAGE_TYPE_REGISTERED
                              ? (const char *)attributes->message.registered
                              : attributes->message.ascii;
    char line[512];
    record(line, snprintf(line, sizeof line, "%ld\tpush\t%s\t%s\n", syscall(SYS_gettid), (char *)domain, message));
    return 0;
}

static int pop(nvtxDomainHandle_t domain) {
    char line[256];
    record(line, snprintf(line, sizeof line, "%ld\tpop\t%s\n", syscall(SYS_gettid), (char *)domain));
    return 0;
}

/* Called by NVTX before the process's first range; 0 says that the tool cannot be used. */
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table) {
    const char *path = getenv("NVTX_RECORDS");
    const NvtxExportTableCallbacks *callbacks = get_export_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table;
    unsigned size;
    if (!path || !callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create_domain;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    records = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    return records >= 0;
}
