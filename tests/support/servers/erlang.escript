%% The SSH daemon of Erlang/OTP, with commands that run in a shell: erlang.escript SYSTEM_DIR USER PASSWORD
%%
%% By itself the daemon takes a command for an expression of Erlang; {exec, {direct, Fun}} is how programs run others.
%% The status of the shell's command is not passed on: the daemon has no way to say it.
main([Directory, User, Password]) ->
    {ok, _} = application:ensure_all_started(ssh),
    {ok, Daemon} = ssh:daemon({127, 0, 0, 1}, 0, [
        {system_dir, Directory},
        {user_dir, Directory},
        {user_passwords, [{User, Password}]},
        {exec, {direct, fun(Text) -> {ok, os:cmd(Text)} end}}
    ]),
    {ok, Info} = ssh:daemon_info(Daemon),
    io:format("{\"listening\": ~p}~n", [proplists:get_value(port, Info)]),
    receive stop -> ok end.
