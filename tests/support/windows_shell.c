/*
 * Starts the default shell as OpenSSH for Windows does (session, do_exec_windows): cmd.exe /c "TEXT", and nothing in
 * TEXT is escaped. The text is in SSH_ORIGINAL_COMMAND. The shell has a console of its own, which nobody sees.
 */
#include <wchar.h>
#include <windows.h>

/* of Windows; Wine takes a larger buffer for a tiny one */
#define MOST 32767

static wchar_t text[MOST], line[MOST + 64];

int main(void) {
    STARTUPINFOW start = {sizeof start};
    PROCESS_INFORMATION made;
    DWORD status = 255;

    DWORD size = GetEnvironmentVariableW(L"SSH_ORIGINAL_COMMAND", text, MOST);
    if (!size || size >= MOST) return 253;
    SetEnvironmentVariableW(L"SSH_ORIGINAL_COMMAND", NULL);
    wcscpy(line, L"\"C:\\windows\\system32\\cmd.exe\" /c \"");
    wcscat(line, text);
    wcscat(line, L"\"");
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessW(NULL, line, NULL, NULL, TRUE, CREATE_NO_WINDOW, NULL, NULL, &start, &made)) return 254;
    WaitForSingleObject(made.hProcess, INFINITE);
    GetExitCodeProcess(made.hProcess, &status);
    return status;
}
